# Grants that are valid from some time until another.
package time_windows

default decision := {"allow": false, "reasons": ["no grant is valid now"]}

decision := {"allow": true, "reasons": sort(valid)} if count(valid) > 0

valid contains name if {
	some name, grant in data.time_windows.grants
	grant.subject == input.subject.id
	time.parse_rfc3339_ns(grant.from) <= input.context.time_ns
	input.context.time_ns < end(grant)
}

end(grant) := time.parse_rfc3339_ns(grant.until) if grant.until

end(grant) := time.add_date(time.parse_rfc3339_ns(grant.from), 0, grant.months, 0) if {
	not grant.until
	grant.months
}

end(grant) := time.parse_rfc3339_ns(grant.from) + time.parse_duration_ns(grant.lasts) if {
	not grant.until
	not grant.months
}
