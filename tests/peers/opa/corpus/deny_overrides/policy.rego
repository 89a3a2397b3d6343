# One objection outweighs every grant.
package deny_overrides

decision := {"allow": allow, "reasons": sort(messages)}

default allow := false

allow if {
	count(grants) > 0
	count(denials) == 0
}

messages := denials if count(denials) > 0

else := grants

grants contains "reader" if {
	"reader" in input.subject.properties.roles
	input.action.name in {"GET", "HEAD"}
}

grants contains "editor" if "editor" in input.subject.properties.roles

denials contains "suspended" if data.deny_overrides.suspended[input.subject.id]

denials contains msg if {
	some hold in data.deny_overrides.holds
	hold.template == input.resource.id
	hold.id == input.resource.properties.params.id
	msg := sprintf("held: %v", [hold.reason])
}

denials contains "agents may not write" if {
	input.subject.type == "agent"
	not reading
}

reading if input.action.name in {"GET", "HEAD"}
