# Patterns over paths and names.
package globs

default decision := {"allow": false}

decision := {"allow": true, "reasons": sort(matched)} if count(matched) > 0

path := concat("/", array.concat([""], input.resource.properties.path))

matched contains pattern if {
	some pattern in data.globs.patterns[input.subject.properties.client_id]
	glob.match(pattern, ["/"], path)
}

matched contains "host" if {
	some pattern in data.globs.hosts
	glob.match(pattern, ["."], input.context.host)
}

matched contains "plain" if glob.match("/api/{users,orders}/*.y", ["/"], path)
