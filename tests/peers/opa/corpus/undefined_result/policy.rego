# No default: what no rule speaks of is undefined.
package undefined_result

decision if {
	some permission in input.subject.properties.permissions
	[verb, noun] := split(permission, ":")
	verbs[verb][input.action.name]
	startswith(input.resource.id, concat("", ["/", noun]))
}

decision := {"allow": false, "reasons": ["explicitly"]} if {
	input.subject.id in data.undefined_result.barred
	count(input.subject.properties.permissions) == 0
}

verbs := {"read": {"GET": true, "HEAD": true}, "write": {"POST": true, "PUT": true, "DELETE": true}}
