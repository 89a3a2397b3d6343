# Nobody leaves their tenant, and whoever has none gets nowhere.
package tenancy

default decision := {"allow": false}

decision := {"allow": true} if {
	input.subject.properties.tenant != ""
	input.subject.properties.tenant == tenant_of_resource
	active[tenant_of_resource]
}

decision := {"allow": true, "reasons": ["support"], "obligations": [{"id": "notify", "tenant": tenant_of_resource}]} if {
	input.subject.properties.tenant == "support"
	tenant_of_resource != "support"
	data.tenancy.tenants[tenant_of_resource].support == true
	input.action.name == "GET"
}

tenant_of_resource := input.resource.properties.params.tenant

active contains name if {
	some name, tenant in data.tenancy.tenants
	not tenant.suspended
}
