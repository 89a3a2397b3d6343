# Not everything that a policy returns is a decision.
package odd_results

decision := data.odd_results.results[input.subject.properties.claims.case]

decision := "yes" if input.subject.properties.claims.case == "text"
