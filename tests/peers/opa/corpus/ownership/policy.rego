# A path parameter names the thing, data know whose it is.
package ownership

default decision := {"allow": false, "reasons": ["not yours"]}

decision := {"allow": true, "reasons": ["owner"]} if owner == input.subject.id

decision := {"allow": true, "reasons": ["shared"]} if {
	owner != input.subject.id
	input.action.name in {"GET", "HEAD"}
	input.subject.id in data.ownership.documents[document].readers
}

decision := {"allow": true, "reasons": ["new"]} if {
	input.action.name == "POST"
	not known
	input.subject.type == "user"
}

document := input.resource.properties.params.id

known if data.ownership.documents[document]

owner := data.ownership.documents[document].owner
