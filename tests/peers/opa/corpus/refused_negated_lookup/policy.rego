# And with the key of a look-up.
package refused_negated_lookup

default decision := false

decision if not data.refused_negated_lookup.banned[input.subject.properties.claims.team]
