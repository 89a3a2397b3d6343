# Roles that include others, to any depth.
package role_graph

default decision := {"allow": false}

decision := {"allow": true, "reasons": [sprintf("%s is a %s", [input.subject.id, needed])]} if {
	needed in held
}

held := graph.reachable(data.role_graph.includes, {role | some role in input.subject.properties.roles})

needed := data.role_graph.needs[input.action.name]
