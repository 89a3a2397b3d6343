# Whoever asked for it does not approve it.
package four_eyes

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["request"]} if input.action.name == "request"

decision := {"allow": true, "reasons": ["approve"], "obligations": [{"id": "sign", "as": input.subject.id}]} if {
	input.action.name == "approve"
	order := data.four_eyes.orders[input.resource.properties.params.order]
	order.requested_by != input.subject.id
	every approval in object.get(order, "approvals", []) {
		approval != input.subject.id
	}
	order.amount <= data.four_eyes.limits[input.subject.id]
	requester := order.requested_by
	not colleague(requester)
}

colleague(other) if {
	some pair in data.four_eyes.conflicts
	pair == {input.subject.id, other}
}

colleague(other) if {
	some members in data.four_eyes.couples
	input.subject.id in members
	other in members
}
