# How long a text may be.
package text_length

default decision := false

decision if {
	count(input.resource.properties.params.title) <= 6
	input.subject.id != ""
}
