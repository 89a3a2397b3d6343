# What is wanted, what is granted, what is forbidden.
package set_algebra

default decision := {"allow": false}

decision := {"allow": true, "reasons": sort(effective)} if {
	wanted - effective == set()
	count(wanted) > 0
}

wanted := {field | some field in split(input.resource.properties.query.fields[0], ",")}

granted := union({fields |
	some role in input.subject.properties.roles
	fields := {field | some field in data.set_algebra.fields[role]}
})

common := intersection({{field | some field in fields} | some fields in data.set_algebra.fields})

effective := (granted | common) - {field | some field in data.set_algebra.secret}
