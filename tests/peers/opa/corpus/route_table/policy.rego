# The whole table of routes is data: method, template, scopes, and whether the tenant has to match.
package route_table

default decision := {"allow": false, "reasons": ["no row"]}

decision := {"allow": true, "reasons": [row.name]} if {
	count(objections) == 0
}

decision := {"allow": false, "reasons": [sprintf("%s: %s", [row.name, objection]) | some objection in sort(objections)]} if {
	count(objections) > 0
}

row := data.route_table.rows[input.action.name][input.resource.id]

objections contains sprintf("needs %s", [scope]) if {
	granted := {scope | some scope in input.subject.properties.scopes}
	some scope in row.scopes
	not scope in granted
}

objections contains "another tenant" if {
	row.tenant == true
	tenant := object.get(input.resource.properties.params, "tenant", "")
	tenant != input.subject.properties.tenant
}

objections contains "not for machines" if {
	row.people
	input.subject.type != "user"
}
