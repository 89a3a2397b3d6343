# What is dangerous wants a second factor that is not old.
package step_up

default decision := {"allow": false, "reasons": ["authenticate again"], "advice": [{"id": "step-up", "acr": "phr"}]}

decision := {"allow": true} if not dangerous

decision := {"allow": true, "reasons": ["fresh second factor"]} if {
	dangerous
	strong
	now - input.subject.properties.auth_time <= data.step_up.max_age
	input.subject.properties.auth_time > 0
}

dangerous if input.action.name in data.step_up.actions

dangerous if startswith(input.resource.id, "/admin")

strong if input.subject.properties.acr in {"phr", "phrh"}

strong if {
	factors := {factor | some factor in input.subject.properties.amr} & {"otp", "hwk", "fpt"}
	count(factors) >= 1
	"pwd" in input.subject.properties.amr
}

now := floor(input.context.time_ns / 1000000000)
