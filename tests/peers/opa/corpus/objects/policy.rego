# Objects that are merged, filtered and compared.
package objects

default decision := {"allow": false}

decision := {"allow": true, "obligations": [{"id": "apply", "settings": settings}]} if {
	object.subset(settings, {"region": "eu"})
	object.keys(settings) == {"region", "tier"}
}

decision := {"allow": true, "reasons": ["exact"]} if {
	object.remove(settings, ["tier"]) == {"region": "us", "pinned": true}
}

settings := object.union_n([
	data.objects.defaults,
	object.get(data.objects.tenants, [input.subject.properties.tenant, "settings"], {}),
	object.filter(object.get(input.context.attributes, "settings", {}), ["region", "pinned"]),
])
