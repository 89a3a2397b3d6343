# Delimiters that are only characters for the embedded engine: the star goes over them.
package refused_colon_globs

default decision := false

decision if glob.match("project:*:read", [":"], input.resource.properties.params.grant)
