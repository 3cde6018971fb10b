package quota

import "cupel.dev/cupel/api/problem"

// ruleQuota: a quota is not written as SCOPE-WHAT=NUMBER.
// Mend: write it as in key-bytes=256M.
const ruleQuota problem.Rule = "quota"
