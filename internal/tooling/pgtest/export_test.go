package pgtest

const RetiredAtOnce = retiredAtOnce
