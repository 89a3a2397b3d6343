# How often something overlaps itself.
package refused_strings_count

default decision := false

decision if strings.count(input.resource.properties.params.name, "aa") == 1
