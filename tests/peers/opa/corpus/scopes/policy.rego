# Every scope that a route needs, or one that stands for all of them.
package scopes

default decision := false

decision if {
	needed := data.scopes.needed[input.resource.id][input.action.name]
	every scope in needed {
		granted(scope)
	}
}

granted(scope) if scope in input.subject.properties.scopes

granted(scope) if {
	[area, _] := split(scope, ":")
	sprintf("%s:*", [area]) in input.subject.properties.scopes
}
