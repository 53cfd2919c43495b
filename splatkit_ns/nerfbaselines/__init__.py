"""The methods for NerfBaselines, a program that trains and measures methods of many projects in the same way.

Importing this needs neither that program nor nerfstudio; `spec` is what it imports first, `method` what it then trains.
"""
