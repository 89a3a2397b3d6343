# What another could do: the same rule with another subject.
package with_override

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["oneself"]} if may

decision := {"allow": true, "reasons": [sprintf("for %s", [principal])]} if {
	not may
	principal := input.context.headers["x-act-for"][0]
	data.with_override.deputies[input.subject.id][principal]
	may with input.subject.id as principal
}

decision := {"allow": true, "reasons": ["on trial"]} if {
	not may
	count(input.context.headers) == 0
	trial := {"alice": ["read", "write"], "bob": ["read"]}
	may with data.with_override.rights as trial
}

may if operation in data.with_override.rights[input.subject.id]

operation := {"GET": "read", "HEAD": "read", "POST": "write"}[input.action.name]
