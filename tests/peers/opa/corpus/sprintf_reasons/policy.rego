# Texts from values of every type.
package sprintf_reasons

decision := {"allow": allow, "reasons": [one, two, three, four, five]}

default allow := false

allow if contains(one, "gold")

allow if endswith(two, "3")

one := sprintf("%s has %v", [input.subject.id, object.get(input.subject.properties.claims, "plan", "nothing")])

two := sprintf("%d of %d, %05d, %x", [count(input.subject.properties.roles), 7, count(input.subject.properties.scopes), count(input.subject.properties.scopes)])

three := sprintf("%v %v %v", [input.subject.properties.roles, {"a": 1, "b": [true, null]}, 1.5])

four := sprintf("%q 100 %% %v %s", [input.subject.id, input.subject.id == "alice", "x"])

five := sprintf("%s|%s|%v", [input.subject.id, input.action.name, count(input.subject.properties.roles) / 4])
