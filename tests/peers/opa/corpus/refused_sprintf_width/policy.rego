# A key that is built with a width.
package refused_sprintf_width

default decision := false

decision if data.refused_sprintf_width.seats[sprintf("%-3s%3d", [input.subject.id, count(input.subject.properties.roles)])]
