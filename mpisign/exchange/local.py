"""`local`: all voters live in this process, one or many; nothing travels."""

from mpisign.exchange.base import Exchange
from mpisign.messages import Ballots


class Local(Exchange):
    """Counts what the voters of this process packed."""

    name = "local"
    raw = True

    def prepare(self):
        self._messages = [self.up.empty(self.world.n, coordinates=hi - lo) for lo, hi in self.chunks]

    def outgoing(self, voter, c):
        return self._messages[c][:, voter]

    def send(self, c):
        pass

    def receive(self, c):
        return Ballots(*self.stretches[c], self.world.n, planes=self._messages[c])
