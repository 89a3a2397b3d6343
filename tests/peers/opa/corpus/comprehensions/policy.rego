# Sets, lists and objects that are built from others.
package comprehensions

default decision := {"allow": false}

decision := {"allow": true, "reasons": names, "obligations": [{"id": "rows", "by_team": by_team}]} if {
	count(names) > 0
	count(missing) == 0
}

names := sort([project.name |
	some project in data.comprehensions.projects
	project.team in teams
	project.state != "archived"
])

teams := {team |
	some team, members in data.comprehensions.members
	input.subject.id in members
}

by_team := {team: projects |
	some team in teams
	projects := [project.name | some project in data.comprehensions.projects; project.team == team]
}

wanted := {name | some name in input.resource.properties.query.project}

missing := wanted - {name | some name in names}
