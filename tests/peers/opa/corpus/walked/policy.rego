# Whatever is nested anywhere.
package walked

default decision := {"allow": false}

decision := {"allow": true, "reasons": sort(found)} if {
	count(found) > 0
	not poisoned
}

found contains concat("/", [sprintf("%v", [step]) | some step in path]) if {
	some path, value in walked
	value == "open"
}

walked[path] := value if walk(input.context.attributes, [path, value])

poisoned if {
	walk(input.context.attributes, [_, value])
	value == "closed"
}
