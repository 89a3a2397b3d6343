# Which release of a client may do what.
package versions

default decision := {"allow": false, "reasons": ["too old"], "advice": [{"id": "upgrade"}]}

decision := {"allow": true} if {
	semver.compare(version, minimum) >= 0
	not broken
}

broken if version in data.versions.withdrawn

minimum := object.get(data.versions.oldest, [input.subject.properties.client_id], "1.0.0")

version := input.context.headers["x-version"][0]
