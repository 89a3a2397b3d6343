# Functions with a default, also where nothing of theirs is defined.
package function_defaults

default decision := false

decision if {
	level(input.subject.properties.claims.plan) >= needed(input.resource.id)
	id := input.subject.id
	not blocked(id)
}

default level(_) := 0

level(plan) := 1 if plan == "silver"

level(plan) := 2 if plan in {"gold", "platinum"}

default needed(_) := 9

needed(template) := data.function_defaults.levels[template]

default blocked(_) := true

blocked(id) := false if data.function_defaults.known[id]
