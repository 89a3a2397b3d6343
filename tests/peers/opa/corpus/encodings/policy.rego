# Values inside of values.
package encodings

default decision := {"allow": false}

decision := {"allow": true, "reasons": [hint.team]} if {
	hint.team in data.encodings.teams
	hint.level > 1
}

decision := {"allow": true, "reasons": ["signed out"]} if {
	next := input.resource.properties.query.next[0]
	urlquery.encode(next) == "%2Fbye+now"
	base64.encode(next) == "L2J5ZSBub3c="
}

hint := json.unmarshal(base64url.decode(cookie)) if {
	cookie := input.context.headers["x-hint"][0]
	regex.match(`^[A-Za-z0-9_-]+$`, cookie)
	count(cookie) % 4 != 1
}
