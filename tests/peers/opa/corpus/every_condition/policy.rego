# A checklist of conditions: all of them, on every one of the things that are asked for.
package every_condition

default decision := {"allow": false}

decision := {"allow": true, "reasons": ["all of them"]} if {
	count(wanted) > 0
	every id in wanted {
		data.every_condition.items[id].group in input.subject.properties.roles
	}
	every name, values in input.resource.properties.query {
		name in {"id", "view"}
		count(values) >= 1
		every value in values {
			count(value) <= 8
		}
	}
}

decision := {"allow": true, "reasons": ["nothing is wanted"]} if count(wanted) == 0

wanted := object.get(input.resource.properties.query, "id", [])
