# The same with a list that is missing.
package refused_negated_membership

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["not frozen"]} if {
	not "frozen" in input.resource.properties.attributes.tags
	input.subject.id != ""
}
