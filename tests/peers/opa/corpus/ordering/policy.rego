# Values of different types have an order too, and a policy may depend on it.
package ordering

default decision := false

decision if {
	input.subject.properties.claims.level >= 3
	input.subject.properties.claims.level < "z"
}

decision if sort(input.context.attributes.list)[0] == min(input.context.attributes.list)

decision if {
	input.context.attributes.list == [1, 2.0, 3]
}
