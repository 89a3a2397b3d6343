# Grants and objections that several rules add to, some of them generated.
package partial_sets

decision := {"allow": allowed, "reasons": sort(objections | remarks)}

default allowed := false

allowed if {
	needed := {sprintf("%s:%s", [kind, input.action.name]) | some kind in kinds}
	count(needed) > 0
	needed & grants == needed
	objections == set()
}

kinds contains input.resource.properties.attributes.kind

kinds contains "audit" if input.resource.properties.attributes.audited == true

grants contains sprintf("%s:%s", [kind, method]) if {
	some role in input.subject.properties.roles
	some kind, methods in data.partial_sets.roles[role]
	some method in methods
}

objections contains "frozen" if data.partial_sets.frozen[_] == input.resource.properties.attributes.kind

objections contains "nameless" if input.subject.id == ""

remarks contains sprintf("%d grants", [count(grants)])
