package authz_test

import data.authz

question(subject, scopes, actors, action, resource, params) := {
	"subject": {"type": "user", "id": subject, "properties": {"scopes": scopes, "actor": actors}},
	"action": {"name": action},
	"resource": {"id": resource, "properties": {"params": params}},
}

allowed(input_) if authz.decision.allow == true with input as input_

test_a_user_lists_and_reads_its_own if {
	allowed(question("auth0|alice", ["jobs:read"], [], "GET", "/jobs", {}))
	allowed(question("auth0|alice", ["jobs:read"], [], "HEAD", "/jobs/{id}", {"id": "1"}))
}

test_a_team_reads_its_jobs_and_nobody_elses if {
	allowed(question("auth0|carol", ["jobs:read"], [], "GET", "/jobs/{id}", {"id": "2"}))
	not allowed(question("auth0|alice", ["jobs:read"], [], "GET", "/jobs/{id}", {"id": "2"}))
	not allowed(question("auth0|alice", ["jobs:read"], [], "GET", "/jobs/{id}", {"id": "3"}))
}

test_an_agent_looks_and_does_not_touch if {
	allowed(question("auth0|alice", ["jobs:read"], [{"id": "agent-7"}], "GET", "/jobs", {}))
	not allowed(question("auth0|alice", ["jobs:write"], [{"id": "agent-7"}], "POST", "/jobs", {}))
	allowed(question("auth0|alice", ["jobs:write"], [], "POST", "/jobs", {}))
}

test_reports_are_for_administrators if {
	allowed(question("auth0|root", ["reports:read"], [], "GET", "/admin/report", {}))
	not allowed(question("auth0|alice", ["reports:read"], [], "GET", "/admin/report", {}))
}

test_the_same_over_grpc if {
	allowed(question("auth0|alice", ["jobs:read"], [], "jobs.v1.Jobs/List", "jobs.v1.Jobs/List", {}))
	not allowed(question("auth0|alice", ["jobs:read"], [], "jobs.v1.Jobs/Create", "jobs.v1.Jobs/Create", {}))
	not allowed(question("auth0|alice", ["jobs:read"], [], "jobs.v1.Jobs/Purge", "jobs.v1.Jobs/Purge", {}))
}

test_nothing_else_is_allowed if {
	not allowed(question("auth0|alice", ["jobs:read", "jobs:write"], [], "DELETE", "/jobs", {}))
	not allowed(question("auth0|alice", [], [], "GET", "/jobs", {}))
}
