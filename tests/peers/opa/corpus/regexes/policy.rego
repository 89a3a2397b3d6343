# Regular expressions over ids, headers and parameters.
package regexes

default decision := {"allow": false, "reasons": ["malformed"]}

decision := {"allow": true, "reasons": sort(kinds)} if {
	regex.match(`^[a-z][a-z0-9-]{1,30}$`, input.resource.properties.params.name)
	count(kinds) > 0
}

decision := {"allow": true, "reasons": parts} if {
	parts := regex.split(`[,;] *`, input.context.headers["x-tags"][0])
	count(parts) == 2
	count(kinds) == 0
}

kinds contains "user" if regex.match(`^user-[0-9]{4}$`, input.subject.id)

kinds contains "service" if regex.match("^svc-(?:mail|search)$", input.subject.id)

kinds contains "mail" if regex.match("^[^@ ]+@acme\\.example$", input.subject.id)

kinds contains "ticket" if {
	numbers := regex.find_n(`[0-9]+`, input.subject.id, 2)
	count(numbers) == 2
	regex.replace(input.subject.id, `[0-9]+`, "n") == "n/n"
}
