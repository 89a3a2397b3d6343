# Texts that the embedded engine's own functions would read otherwise.
package corrected

default decision := false

decision if {
	input.action.name == "case"
	upper(input.resource.properties.params.name) in {"STRASSE", "ADMIN"}
}

decision if {
	input.action.name == "case"
	lower(input.resource.properties.params.name) == "admin"
}

decision if {
	input.action.name == "number"
	to_number(input.resource.properties.params.level) > 3
}

decision if {
	input.action.name == "time"
	time.parse_rfc3339_ns(input.resource.properties.params.since) < input.context.time_ns
}

decision if {
	input.action.name == "length"
	count(input.resource.properties.params.name) >= 5
}

decision if {
	input.action.name == "place"
	indexof(input.resource.properties.params.name, input.resource.properties.params.part) == 0
}

decision if {
	input.action.name == "address"
	not blocked
}

blocked if {
	some address in input.context.headers["x-forwarded-for"]
	net.cidr_contains("192.0.2.0/24", address)
}
