# An object with everything that a decision may carry.
package obligations

decision := {
	"allow": count(denials) == 0,
	"reasons": [reason | some reason in array.concat(sort(denials), sort(remarks))],
	"obligations": duties,
	"advice": hints,
}

denials contains "export is for analysts" if {
	input.action.name == "export"
	not analyst
}

analyst if "analyst" in input.subject.properties.roles

denials contains "nobody asked" if input.subject.id == ""

remarks contains sprintf("asked by %s from %s", [input.subject.id, input.context.host])

duties := array.concat(masks, marks)

masks := [{"id": "mask", "field": field, "keep": keep} |
	some field, keep in data.obligations.fields
	not clear[field]
]

clear contains field if some field in data.obligations.clear_fields[input.subject.id]

marks := [{"id": "watermark", "text": upper(input.subject.id), "n": count(input.subject.properties.roles) / 2}] if {
	input.action.name == "export"
} else := []

hints := [{"id": "cache", "seconds": 60}] if input.action.name == "GET"

else := []
