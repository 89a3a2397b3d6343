# What texts can be taken apart into.
package text_pieces

default decision := {"allow": false}

decision := {"allow": true, "reasons": [normalised, domain]} if {
	some suffix in data.text_pieces.domains
	endswith(domain, suffix)
	not guest
	strings.any_prefix_match(normalised, {"a", "b", "c"})
}

decision := {"allow": true, "reasons": ["alias"]} if {
	not domain
	replace(trim_prefix(normalised, "alias:"), "_", "-") in data.text_pieces.aliases
	indexof(normalised, ":") > 0
}

guest if startswith(domain, "guest.")

normalised := trim_space(trim(lower(input.subject.properties.claims.email), "."))

domain := substring(normalised, at + 1, -1) if {
	at := indexof(normalised, "@")
	at > 0
}
