# The first that fits decides.
package else_chain

decision := {"allow": false, "reasons": ["locked"]} if {
	data.else_chain.locked[input.subject.properties.tenant]
} else := {"allow": true, "reasons": ["owner"]} if {
	input.subject.id == data.else_chain.owners[input.subject.properties.tenant]
} else := {"allow": verdict(input.action.name), "reasons": ["by method"]} if {
	input.subject.type == "user"
} else := {"allow": true, "reasons": ["probe"]} if {
	input.context.headers["x-probe"][_] == "1"
} else := false

verdict(method) if {
	method in {"GET", "HEAD"}
} else := false if {
	method == "DELETE"
} else := data.else_chain.writable
