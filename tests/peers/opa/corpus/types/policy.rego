# What a claim is, before anything is done with it.
package types

default decision := {"allow": false}

decision := {"allow": true, "reasons": [type_name(value)]} if {
	value := input.subject.properties.claims.groups
	member(value)
}

member(value) if {
	is_string(value)
	value == "staff"
}

member(value) if {
	is_array(value)
	"staff" in value
}

member(value) if {
	is_object(value)
	value.staff == true
}

member(value) if {
	is_number(value)
	bits.and(value, 4) == 4
}

member(value) if {
	is_boolean(value)
	value
	is_null(object.get(input.subject.properties.claims, "expires", null))
}
