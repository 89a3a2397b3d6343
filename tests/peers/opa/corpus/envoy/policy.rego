# What a policy for Envoy's external authorization reads.
package envoy

import input.attributes.request.http

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["member"]} if {
	http.method == "GET"
	input.parsed_path == ["people"]
	claims.sub in data.envoy.members
}

decision := {"allow": true, "reasons": ["own page"]} if {
	http.method in {"GET", "PUT"}
	input.parsed_path == ["people", claims.sub]
}

decision := {"allow": true, "reasons": ["operator from the inside"]} if {
	http.method == "POST"
	glob.match("/people*", ["/"], http.path)
	"people:write" in split(claims.scope, " ")
	net.cidr_contains("10.0.0.0/8", input.attributes.source.address.socketAddress.address)
	http.headers["x-tier"] == "gold"
}

claims := input.attributes.metadataContext.filterMetadata["envoy.filters.http.jwt_authn"].verified_jwt
