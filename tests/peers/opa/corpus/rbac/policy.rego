# Roles in the manner of the documentation: who has which role, and which role may do what, are data.
package rbac

default decision := {"allow": false, "reasons": ["no role grants it"]}

decision := {"allow": true, "reasons": reasons} if {
	count(grants) > 0
	reasons := [sprintf("role %s", [role]) | some role in sort(grants)]
}

grants contains role if {
	some role in data.rbac.bindings[input.subject.id]
	some grant in data.rbac.roles[role]
	input.action.name in grant.methods
	input.resource.id == grant.template
}

grants contains "administrator" if "administrator" in data.rbac.bindings[input.subject.id]
