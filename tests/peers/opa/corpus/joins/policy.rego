# Several collections at once, with the old brackets and with the new words.
package joins

default decision := {"allow": false}

decision := {"allow": true, "reasons": sort(pairs)} if count(pairs) > 0

pairs contains sprintf("%s/%s", [membership.team, right.verb]) if {
	membership := data.joins.memberships[_]
	membership.subject == input.subject.id
	right := data.joins.rights[_]
	right.team == membership.team
	right.verb == data.joins.verbs[input.action.name]
	right.areas[i] == input.resource.properties.params.area
	i < 5
}

pairs contains "any area" if {
	some i, j
	data.joins.memberships[i].subject == input.subject.id
	data.joins.rights[j].team == data.joins.memberships[i].team
	data.joins.rights[j].areas[_] == "*"
}
