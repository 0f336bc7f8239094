"""The contract of a penalty as a public function, for penalties of your own."""

from keras_reg.testing.contract import check_penalty as check_penalty
