# Two rules that can contradict each other: an error in both engines, never a decision.
package conflict

decision if {
	"reader" in input.subject.properties.roles
	input.action.name in {"GET", "HEAD"}
}

decision := false if {
	"suspended" in input.subject.properties.roles
	input.action.name != "HEAD"
}

decision := {"allow": true, "reasons": ["root"]} if input.subject.id == "root"
