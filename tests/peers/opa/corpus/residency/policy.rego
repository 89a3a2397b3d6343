# Data stay in their region, unless an agreement says otherwise.
package residency

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["stays"]} if home == caller

decision := {"allow": true, "reasons": [sprintf("%s to %s", [home, caller])], "obligations": [{"id": "log-transfer", "basis": basis}]} if {
	home != caller
	basis := data.residency.transfers[home][caller]
	time.parse_rfc3339_ns(basis.until) > input.context.time_ns
}

home := region(data.residency.tenants[input.subject.properties.tenant])

caller := region(input.context.headers["x-country"][0])

region(country) := name if {
	some name, countries in data.residency.regions
	upper(country) in countries
}
