# An object rule by rule: what is left open is denied.
package partial_objects

decision := verdict

verdict["allow"] := allow

verdict["reasons"] := [reason | some reason in ["named", "known"]; facts[reason]]

verdict["advice"] := [{"id": name, "value": value} | some name, value in hints]

default allow := false

allow if {
	facts.named
	facts.known == true
	limits.requests > 10
}

facts["named"] := input.subject.id != ""

facts["known"] if data.partial_objects.people[input.subject.id]

limits[name] := value if {
	some name, value in data.partial_objects.people[input.subject.id].limits
}

hints[name] := value if {
	some name, value in limits
	value >= 100
}
