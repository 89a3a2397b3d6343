# The way out of a refused negation: the inner expression gets a rule of its own.
package negated_helpers

default decision := {"allow": false}

decision := {"allow": true} if {
	not service_account
	not tagged
	not own_team
	not too_many
	not too_old
}

service_account if startswith(input.subject.properties.claims.email, "svc-")

tagged if "frozen" in input.resource.properties.attributes.tags

own_team if data.negated_helpers.teams[input.subject.properties.claims.team] == input.subject.id

too_many if count(input.resource.properties.attributes.tags) > 3

too_old if input.context.time_ns - (input.subject.properties.claims.since * 1000000000) > 86400000000000
