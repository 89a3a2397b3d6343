# Arithmetic over what is asked for.
package sums

default decision := {"allow": false}

decision := {"allow": true, "reasons": [sprintf("%v", [cost])], "advice": [{"id": "cost", "value": cost, "rounded": round(cost), "half": cost / 2}]} if {
	cost <= budget
	cost % 1 >= 0
}

cost := sum([price | some item in items; price := (item.count * item.price) - object.get(item, "discount", 0)])

items := input.context.attributes.items

budget := max([0, data.sums.budgets[input.subject.id], input.subject.properties.claims.extra])
