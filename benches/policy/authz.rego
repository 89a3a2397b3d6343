# What the bench asks for: twelve routes, a scope and a role for each, tenants that are kept apart, and reasons for whatever is missing.
package authz

default decision := {"allow": false, "reasons": ["no route"]}

decision := {"allow": count(missing) == 0, "reasons": sort(missing)} if route

route := data.routes[concat(" ", [input.action.name, input.resource.id])]

caller := data.subjects[input.subject.id]

tenant := input.resource.properties.params.tenant

missing contains "scope" if not has_scope

missing contains "tenant" if not is_of_tenant

missing contains "role" if not has_role

missing contains "own hand" if {
	route.writes
	count(input.subject.properties.actor) > 0
}

has_scope if route.scope in input.subject.properties.scopes

is_of_tenant if caller.tenants[tenant]

has_role if {
	some binding in caller.roles
	binding.tenant == tenant
	binding.role in route.roles
}
