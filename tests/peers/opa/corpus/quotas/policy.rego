# What was used is data, pushed by whoever counts; what is asked for is a number in the query.
package quotas

default decision := {"allow": false}

decision := {"allow": true, "obligations": [{"id": "count", "units": wanted, "left": limit - (used + wanted)}]} if {
	wanted > 0
	used + wanted <= limit
}

decision := {"allow": false, "reasons": [sprintf("%d of %d used, %v wanted", [used, limit, wanted])]} if {
	used + wanted > limit
}

plan := object.get(data.quotas.plans, [input.subject.properties.tenant], "free")

limit := data.quotas.limits[plan]

used := object.get(data.quotas.usage, [input.subject.properties.tenant, input.resource.id], 0)

default wanted := 1

wanted := to_number(input.resource.properties.query.units[0]) if {
	regex.match(`^[0-9]{1,6}(\.[0-9])?$`, input.resource.properties.query.units[0])
}
