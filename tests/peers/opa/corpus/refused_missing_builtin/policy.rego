# A function that the embedded engine does not have.
package refused_missing_builtin

default decision := false

decision if crypto.sha256(input.resource.properties.params.secret) == data.refused_missing_builtin.digest
