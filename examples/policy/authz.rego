# Who may do what with jobs. Deny is what happens when no rule below allows.
#
# The gate asks for one object: data.authz.decision.
package authz

default decision := {"allow": false, "reasons": ["no rule allows it"]}

decision := {"allow": true, "reasons": sort(reasons)} if count(reasons) > 0

# Each rule adds a reason; one is enough. Reasons go to the audit trail, never to the caller.

reasons contains "lists jobs" if {
	operation == "list"
	"jobs:read" in scopes
}

reasons contains "reads its own job" if {
	operation == "read"
	"jobs:read" in scopes
	data.jobs[input.resource.properties.params.id].owner == input.subject.id
}

reasons contains "reads a job of its team" if {
	operation == "read"
	"jobs:read" in scopes
	some team in data.members[input.subject.id]
	data.jobs[input.resource.properties.params.id].team == team
}

# An agent that acts for somebody may look, not touch.
reasons contains "creates jobs" if {
	operation == "create"
	"jobs:write" in scopes
	count(input.subject.properties.actor) == 0
}

reasons contains "reads reports" if {
	operation == "report"
	"reports:read" in scopes
	data.administrators[input.subject.id]
}

reasons contains "sees the page" if {
	operation == "page"
	input.subject.type == "user"
}

# The same operations over HTTP and gRPC.

operation := "list" if {
	reading
	input.resource.id == "/jobs"
}

operation := "list" if input.resource.id == "jobs.v1.Jobs/List"

operation := "read" if {
	reading
	input.resource.id == "/jobs/{id}"
}

operation := "create" if {
	input.action.name == "POST"
	input.resource.id == "/jobs"
}

operation := "create" if input.resource.id == "jobs.v1.Jobs/Create"

operation := "report" if {
	reading
	input.resource.id == "/admin/report"
}

operation := "page" if {
	reading
	input.resource.id == "/"
}

reading if input.action.name in {"GET", "HEAD"}

scopes := input.subject.properties.scopes
