# Every way to write a negation that means the same to both engines.
package negations

default decision := false

decision if {
	input.action.name == "plain"
	not input.context.attributes.blocked
}

decision if {
	input.action.name == "equal"
	not input.context.attributes.level == 3
}

decision if {
	input.action.name == "bracket"
	not input.context.attributes.blocked
}

decision if {
	input.action.name == "rule"
	not blocked
}

decision if {
	input.action.name == "function"
	user := input.subject.id
	not suspicious(user)
}

decision if {
	input.action.name == "member"
	id := input.subject.id
	banned := data.negations.banned
	not id in banned
}

decision if {
	input.action.name == "lookup"
	id := input.subject.id
	not data.negations.flags[id]
}

decision if {
	input.action.name == "constant"
	not "root" in {"alice", "bob"}
	input.subject.id == "alice"
}

decision if {
	input.action.name == "count"
	findings := {finding | some finding in input.context.attributes.findings; finding.severity > 2}
	not count(findings) > 0
}

decision if {
	input.action.name == "some"
	some role in input.subject.properties.roles
	not data.negations.flags[role]
}

blocked if input.context.attributes.level > 3

suspicious(user) if data.negations.flags[user] == true

suspicious(user) if startswith(user, "x-")
