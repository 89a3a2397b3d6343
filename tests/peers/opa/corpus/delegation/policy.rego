# Who acts for somebody may do what both may, and no chain is longer than two.
package delegation

default decision := {"allow": false}

actors := [link.id | some link in input.subject.properties.actor]

decision := {"allow": true, "reasons": ["in person"]} if {
	count(actors) == 0
	input.action.name in data.delegation.people[input.subject.id]
}

decision := {
	"allow": true,
	"reasons": [concat(" for ", array.concat(actors, [input.subject.id]))],
	"obligations": [{"id": "stamp", "actor": actors[0]}],
} if {
	count(actors) > 0
	count(actors) <= 2
	input.action.name in data.delegation.people[input.subject.id]
	every actor in actors {
		input.action.name in data.delegation.agents[actor]
	}
	not self_delegation
}

self_delegation if input.subject.id in actors
